"""What people look at: pages of the values that `queries` returns, as HTML and as Markdown. It decides nothing."""
