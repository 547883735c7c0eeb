"""PCM windows to tensors: recipes, features, windows (pure), and the service around them."""
