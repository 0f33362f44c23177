"""The gateway: who may call, how often, which variant answers, and who gets a copy. The one door of the mesh for callers."""
