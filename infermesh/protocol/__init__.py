"""The wire contract as Python: generated from `protos/open_inference.proto` by `make proto`, never edited by hand."""
