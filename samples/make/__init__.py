"""The scripts that made the samples: `python -m samples.make` writes every artefact again.

One module per model: it draws or loads the data, trains, measures on rows that training never saw, and writes the model
with what belongs to it. `artifacts` knows the files' forms. Nothing outside this package imports it, and nothing but
this package imports scikit-learn and skl2onnx.
"""
