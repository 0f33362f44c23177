"""The `infermesh` command: start a mesh, ask it, look after its keys, models and configuration."""
