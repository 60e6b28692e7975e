"""How results are shown: page shell, theme, escaping, tables, figures and the terminal's table.

These are primitives that know nothing of any method: what a report says is put together in `temper.report`, and each
capability draws its own figures with them. matplotlib and rich are imported only where something is drawn or printed.
"""

__all__ = ["figures", "numbers", "page", "tables", "terminal", "text", "theme"]
