"""Listening studies: the sounds of several systems, and what raters say of them."""
