"""Why one request was late: its time by stage, layer and hop, in words, as JSON and as a timeline."""
