"""Checks of what would be published: the files, and programs that use them."""
