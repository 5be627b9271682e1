"""The data recorded from one forward pass: queries and keys of attention blocks, channel gates, features."""
