"""What other programs and people are shown: JSON documents, availability, audit lines."""
