"""The four services. Each folder: what it is (`__init__`), how it is composed (`app`), its settings (`config`), its own parts."""
