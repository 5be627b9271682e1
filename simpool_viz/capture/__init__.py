"""What one forward pass leaves behind: queries and keys of attention blocks, channel gates, features."""
