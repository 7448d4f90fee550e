"""Networks rebuilt for inference."""
