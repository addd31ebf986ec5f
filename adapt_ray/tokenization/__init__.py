"""Task tokens in texts: finding their occurrences and inserting them."""
