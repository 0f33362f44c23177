"""When and with whom a request runs: instances, the queue before them, batches."""
