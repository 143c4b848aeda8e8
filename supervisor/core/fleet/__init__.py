"""Several facilitators as one: what members decide alone, and what they tell each other"""
