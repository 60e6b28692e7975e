"""A page read the way a browser reads it, as far as tests need."""

from html.parser import HTMLParser


class Seen(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.attributes = []
        self.texts = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).replace("\u00a0", " ").split())

    def values(self, name):
        return [value for _, own, value in self.attributes if own == name]
