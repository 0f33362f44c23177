"""The transformer: looks features up in Redis by entity id and joins them to the request, on its way to the model."""
