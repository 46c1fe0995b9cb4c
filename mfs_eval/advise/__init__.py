"""``mfs advise``: what each scheduling policy would attain in a cluster, and what to deploy first."""
