"""Emoji in colour: 32x32 pixels, two styles, captions; and the miniatures that draw them."""
