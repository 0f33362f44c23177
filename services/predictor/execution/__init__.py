"""How a model version runs: its session, devices, memory and warm-up."""
