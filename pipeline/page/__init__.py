"""A page that shows how a run goes: its cameras, what was labelled last, events, and the machine's load."""
