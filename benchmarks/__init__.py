"""What a call costs, measured beside a peer in the same run; `README.md` has the results."""
