"""Building blocks that go inside a backbone: LIFE (attention of ViTs), SPE (residual branches of ResNets)."""
