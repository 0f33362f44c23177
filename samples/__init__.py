"""Small real models, the features they look up, and recorded answers: what the mesh serves before it has your models.

The artefacts are checked in; `samples.make` holds the scripts that made them and is the only part that needs
scikit-learn. See README.md beside this file.
"""
