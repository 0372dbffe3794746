"""What answers the prompts: one protocol, three kinds."""
