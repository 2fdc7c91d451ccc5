"""Other people's messages, under names of our own."""
