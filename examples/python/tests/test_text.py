# SPDX-License-Identifier: MIT
import subprocess
import json

import pytest

import dsv4

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <｜User｜> é 🙂"}]


def test_tokens_and_text(tokenizer):
    text = "In the beginning God created the heaven and the earth. é 🙂\n"
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.piece(i) for i in ids).decode() == text
    words = dsv4.StreamDecoder(tokenizer)
    assert "".join(words.push(i) for i in ids) + words.finish() == text


def test_special_tokens_are_text_unless_asked_for(tokenizer):
    word = "<｜end▁of▁sentence｜>"
    assert tokenizer.token_to_id(word) == tokenizer.eos
    assert tokenizer.encode(word, special=True) == [tokenizer.eos]
    assert tokenizer.eos not in tokenizer.encode(word)
    assert tokenizer.decode([tokenizer.eos], skip_special=True) == ""


def test_a_chat_is_that_of_the_command_line(cli):
    prompt = dsv4.encode_chat(MESSAGES, thinking=False)
    given = {"messages": MESSAGES, "thinking_mode": "chat"}
    done = subprocess.run([cli, "encode"], input=json.dumps(given), capture_output=True, text=True, check=True)
    assert prompt.text == json.loads(done.stdout)["expected"] == str(prompt)
    assert "".join(text for text, _ in prompt.segments) == prompt.text


def test_what_a_user_writes_is_no_command():
    segments = dsv4.encode_chat(MESSAGES).segments
    assert [text for text, control in segments if control].count("<｜User｜>") == 1
    assert any("<｜User｜>" in text for text, control in segments if not control)


def test_a_completion_becomes_a_message():
    message = dsv4.parse_completion("Because.</think>Yes.<｜end▁of▁sentence｜>")
    assert message["role"] == "assistant"
    assert message["reasoning_content"] == "Because." and message["content"] == "Yes."


def test_a_message_that_is_none_is_refused():
    with pytest.raises(dsv4.Error):
        dsv4.encode_chat([{"role": "nobody", "content": "x"}])
    with pytest.raises(dsv4.ContractViolation, match="reasoning_effort"):
        dsv4.encode_chat(MESSAGES, reasoning_effort="much")
