"""The pack: a form of a pickle's object that loads by mapping its arrays instead of copying them."""
