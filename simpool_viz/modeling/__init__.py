"""Models: encoders, their layers and poolings, and the description from which they are built."""
