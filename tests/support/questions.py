"""Questions of both kinds that tasks may ask."""

CHOICES = [
    {"context": f"Is {number} even?\nAnswer:", "choices": [" yes", " no, it is not"], "answer": number % 2}
    for number in range(11)
]
CONTEXTS = [
    {"contexts": [f"Item {number} broke a", f"Item {number} broke b"], "continuation": " at once.", "answer": 1}
    for number in range(7)
]
