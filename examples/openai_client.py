"""An OpenAI client that knows nothing of RaySparseX. Run: python -m examples.openai_client"""

from __future__ import annotations

import argparse

from openai import OpenAI


def main(url: str) -> str:
    """Ask one question about one document; prints and returns the answer."""
    client = OpenAI(base_url=url, api_key="none")
    completion = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[
            {"role": "system", "content": "Answer from the documents."},
            {"role": "user", "content": "Anna lives in Paris.\n\nWhere does Anna live?"},
        ],
        temperature=0,
        max_tokens=16,
    )
    answer = (completion.choices[0].message.content or "").strip()
    print(f"Where does Anna live? {answer}")
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
