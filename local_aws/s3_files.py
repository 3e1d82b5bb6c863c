"""Moves a job's files between S3 and a folder, as SageMaker does before and after it runs a container."""

import tarfile
import zlib
from pathlib import Path

from botocore.exceptions import ClientError

MAX_MODEL_BYTES = 2 * 1024**3
MAX_MODEL_FILES = 1000


class DownloadFailed(Exception):
    """What S3 holds cannot be brought; the message names the location and what to mend."""


def split_uri(uri: str) -> tuple[str, str]:
    """s3://bucket/some/key -> (bucket, some/key). Raises ValueError for anything else."""
    if not uri.startswith("s3://") or not uri[5:].split("/")[0]:
        raise ValueError(f"{uri!r} is not an S3 location; it must read s3://bucket/prefix")
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


def join_key(*parts: str) -> str:
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def download_prefix(s3, uri: str, folder: Path) -> int:
    """Writes every object under the prefix below folder, by its key relative to the prefix; returns how many."""
    bucket, prefix = split_uri(uri)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for key in _keys(s3, bucket, prefix, uri):
        target = _place(folder, key, prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        count += 1
    return count


def _keys(s3, bucket: str, prefix: str, uri: str) -> list[str]:
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", []) if not found["Key"].endswith("/")]
    except ClientError as error:
        raise DownloadFailed(f"{error.response['Error']['Message']}: {uri}") from error
    if not keys:
        raise DownloadFailed(
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
            "exists in the selected region, and that objects exist under that S3 prefix"
        )
    return keys


def _place(folder: Path, key: str, prefix: str) -> Path:
    relative = key.removeprefix(prefix).lstrip("/") or key.rsplit("/", 1)[-1]
    target = (folder / relative).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise DownloadFailed(f"The key {key!r} leads outside of its channel's folder; rename it")
    return target


def upload_folder_as_archive(s3, folder: Path, bucket: str, key: str) -> None:
    """Packs the folder's content as .tar.gz, next to it, and puts it to S3."""
    archive = folder.parent / "model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    s3.upload_file(str(archive), bucket, key)
    archive.unlink()


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpacks a model.tar.gz. Raises DownloadFailed for one that is broken or not plain files inside the folder."""
    size = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for number, member in enumerate(tar):
                size += member.size
                _check_member(member, folder)
                if size > MAX_MODEL_BYTES or number >= MAX_MODEL_FILES:
                    raise DownloadFailed(
                        f"model.tar.gz unpacks to over {MAX_MODEL_BYTES} bytes or {MAX_MODEL_FILES} files"
                    )
                member.mode = 0o600 if member.isfile() else 0o700
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DownloadFailed(
            f"model.tar.gz is not a readable gzip-compressed tar archive ({error}); train the model again"
        ) from error


def _check_member(member: tarfile.TarInfo, folder: Path) -> None:
    if not (member.isfile() or member.isdir()):
        raise DownloadFailed(f"model.tar.gz holds {member.name!r}, which is no plain file; pack files and folders only")
    if not (folder / member.name).resolve().is_relative_to(folder.resolve()):
        raise DownloadFailed(f"model.tar.gz holds {member.name!r}, which leads outside of the model's folder")
