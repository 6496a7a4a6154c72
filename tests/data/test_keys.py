"""The site key and the pseudonyms made with it."""

import hashlib
import os
import stat

import pytest

from ttl_monai.data.keys import default_key_path, load_site_key, pseudonym


def rfc2104(key, text):
    """HMAC-SHA256 by its definition, without Python's hmac."""
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text.encode()).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


def test_pseudonym_is_hmac_sha256():
    assert pseudonym(b"k" * 32, "Müller, 1950") == rfc2104(b"k" * 32, "Müller, 1950")
    assert pseudonym(b"k" * 32, "A") != pseudonym(b"l" * 32, "A")


def test_key_is_made_on_first_use_for_its_owner_alone(tmp_path, caplog):
    path = tmp_path / "config" / "key"
    key = load_site_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "keep a copy" in caplog.text
    assert key.hex() not in caplog.text
    assert load_site_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["key"]
    assert load_site_key(tmp_path / "other") != key


def test_default_place_is_the_users_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = load_site_key()
    assert default_key_path().is_relative_to(tmp_path)
    assert bytes.fromhex(default_key_path().read_text().strip()) == key


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_key_that_others_can_read_is_refused(tmp_path):
    load_site_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ValueError, match=r"mode 0640, expected 0600.*chmod 600"):
        load_site_key(tmp_path / "key")


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 31])
def test_damaged_key_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="is no site key: expected 64 hexadecimal digits"):
        load_site_key(path)
    assert path.read_text() == content
