"""Where do admitted versions live besides the depot, and how are they taken back when a verdict turns?"""
