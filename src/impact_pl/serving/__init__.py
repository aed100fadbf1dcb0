"""A page in the browser: make sounds from captions, and edit them."""
