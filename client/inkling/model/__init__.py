"""Published models: where they lie, how they are loaded, and what runs them."""
