"""RoCEv2 of simulated hosts: reliable connections that go back N."""
