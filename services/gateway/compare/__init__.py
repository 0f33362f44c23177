"""What a shadow's answers say beside the primary's, and whether that is more than noise. Never on the way of a call."""
