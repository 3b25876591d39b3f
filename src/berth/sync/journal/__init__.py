"""What is to be copied by rule, and what became of it? Rules, runs and their items, as the database keeps them."""
