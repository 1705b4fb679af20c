"""Everything that turns labelled recordings into the bundled weights; ``dear`` never imports it."""
