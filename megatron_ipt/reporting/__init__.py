"""HTML reports: each module takes typed rows and returns one self-contained page; plots are inline SVG."""
