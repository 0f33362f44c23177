"""One line for each inference: who asked what, what answered, how long each part took. Writing it never holds a call up."""
