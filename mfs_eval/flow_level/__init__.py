"""The flow-level engine: serving at the scale of a data centre, with flows as fluids that share links."""
