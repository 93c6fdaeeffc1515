"""Judges: each reads one turn and says which of its replies fits the person. All write the same judgements."""
