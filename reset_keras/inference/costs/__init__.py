"""What a network costs: operations and time."""
