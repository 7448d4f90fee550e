"""What trains routes, and units along them."""
