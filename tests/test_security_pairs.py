"""Security by its absence: with each check taken out, the test beside it goes red.

docs/security.md lists the same pairs; the first test holds the two lists equal. One module, though
long: it is one list.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support.at_once import at_once, cpus
from tests.support.without import REPOSITORY, changed, run_without, source_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A check, and the test that needs it: `old` becomes `new` in `module`."""

    check: str
    module: str
    old: str
    new: str
    test: str


TIERS, CONTENT, IMAGE = "tests/tiers/", "tests/content/", "tests/image/"
ACCESS = "tests/csi/access/"
SHARED_INDEX = "tests/machine/test_shared_image_index.py::"
PAIRS = [
    Pair(
        check="chunk digest, content cache",
        module="clipfs.tiers.verify",
        old="if blake3(piece).digest() != index.chunk_digest(chunk):",
        new="if False:",
        test=TIERS + "test_trust.py::test_a_wrong_chunk_from_the_content_cache_is_never_served",
    ),
    Pair(
        check="chunk digest, registry",
        module="clipfs.layer.chunks",
        old="if self._job.chunk_digests[here] != self.digests[here]:",
        new="if False:",
        test=TIERS + "test_trust.py::test_a_wrong_chunk_from_the_registry_is_never_served",
    ),
    Pair(
        check="chunk digest, before storing",
        module="clipfs.tiers.storer",
        old="if wrong is not None:",
        new="if False:",
        test=TIERS + "test_storing.py::test_a_payload_that_the_disk_has_damaged_is_not_stored",
    ),
    Pair(
        check="index HMAC",
        module="clipfs.layer.seal",
        old="if hmac.compare_digest(tag, _tag(key, content, kind, version, name)):",
        new="if True:",
        test=TIERS + "test_disk.py::test_an_index_is_believed_if_one_of_our_keys_signed_it",
    ),
    Pair(
        check="origin record, HMAC",
        module="clipfs.layer.seal",
        old="if hmac.compare_digest(tag, _tag(key, content, kind, version, name)):",
        new="if True:",
        test=TIERS + "test_origins.py::"
        "test_a_record_on_disk_is_believed_if_one_of_our_keys_signed_it",
    ),
    Pair(
        check="origin record, host",
        module="clipfs.layer.origin",
        old="if record_name(layer.cache_key, host) != name:",
        new="if False:",
        test=TIERS + "test_origins.py::test_a_wrong_record_on_disk_is_a_miss_and_is_replaced",
    ),
    Pair(
        check="image index, HMAC",
        module="clipfs.layer.seal",
        old="if hmac.compare_digest(tag, _tag(key, content, kind, version, name)):",
        new="if True:",
        test=SHARED_INDEX + "test_what_is_wrong_is_not_shown_and_is_put_right",
    ),
    Pair(
        check="image index, layers",
        module="clipfs.mount.image_index",
        old="return found == (digests, sparse) and (index.is_own or not own)",
        new="return index.is_own or not own",
        test=SHARED_INDEX + "test_the_signed_index_of_another_image_is_not_shown",
    ),
    Pair(
        check="image index, whose",
        module="clipfs.tree.packed",
        old="mark_received(fd)",
        new="pass",
        test=SHARED_INDEX + "test_the_kernel_is_shown_no_image_index_but_the_nodes_own",
    ),
    Pair(
        check="origin of what is mounted",
        module="csi.mounter",
        old="if lacks_origin(self._layout, self._keys, image):",
        new="if False:",
        test="tests/csi/test_shown_elsewhere.py::"
        "test_a_registry_that_knows_a_digest_alone_opens_no_volume_of_it",
    ),
    Pair(
        check="origin record, every image",
        module="clipfs.tiers.proofs",
        old="if not await self.has(layer, self._host):",
        new="if False:",
        test=TIERS + "test_proofs.py::test_who_does_not_deliver_it_gets_no_index_and_no_record",
    ),
    Pair(
        check="index diff_id",
        module="clipfs.layer.sealed_index",
        old="if layer.diff_id is not None and index.diff_id != layer.diff_id:",
        new="if False:",
        test=TIERS + "test_disk.py::test_an_index_whose_payload_is_not_the_configs_is_not_believed",
    ),
    Pair(
        check="blob digest",
        module="clipfs.layer.blob.source",
        old="if found != self._job.digest:",
        new="if False:",
        test=TIERS + "test_trust.py::"
        "test_a_blob_other_than_the_manifests_is_refused_though_its_payload_is_right",
    ),
    Pair(
        check="diff_id",
        module="clipfs.layer.worker",
        old="if job.diff_id is not None and diff_id != job.diff_id:",
        new="if False:",
        test=TIERS + "test_trust.py::"
        "test_a_payload_other_than_the_configs_is_refused_though_its_blob_is_right",
    ),
    Pair(
        check="sparse map",
        module="clipfs.layer.archive.sparse_members",
        old="if packed_bytes != runs.data_bytes:",
        new="if False:",
        test="tests/layer/test_sparse.py::test_a_malformed_map_is_corrupt_and_names_its_member",
    ),
    Pair(
        check="rebuilt sparse files",
        module="clipfs.mount.rebuilt",
        old="return whole and os.pread(file.fileno(), BLOCK, 0) == sparse.head",
        new="return whole",
        test="tests/mount/test_rebuilt.py::"
        "test_that_of_another_layout_is_made_anew_though_it_is_as_long",
    ),
    Pair(
        check="manifest digest",
        module="clipfs.image.document",
        old="if stated and stated != digest:",
        new="if False:",
        test=IMAGE + "test_hostile_registry.py::"
        "test_bytes_that_are_not_what_their_digest_names_are_corrupt",
    ),
    Pair(
        check="content digest of an upload",
        module="clipfs.content.incoming",
        old="if digest != promised:",
        new="if False:",
        test=CONTENT + "test_objects.py::test_a_content_digest_is_checked",
    ),
    Pair(
        check="immutable objects",
        module="clipfs.content.incoming",
        old="                os.link(path, self._path)\n",
        new="                os.replace(path, self._path)\n",
        test=CONTENT
        + "test_objects.py::test_of_two_objects_that_come_for_one_key_at_once_the_first_stands",
    ),
    Pair(
        check="immutable pages",
        module="clipfs.content.objects",
        old="replaces = _etags(request) if is_replaceable(key) else None",
        new="replaces = _etags(request)",
        test=CONTENT + "test_replacing.py::test_pages_and_rebuilt_files_are_never_replaced",
    ),
    Pair(
        check="If-Match of a removal",
        module="clipfs.content.store",
        old="if etag_of(status) not in etags:",
        new="if False:",
        test=CONTENT + "test_replacing.py::test_a_removal_names_what_it_removes",
    ),
    Pair(
        check="holder of a claim",
        module="clipfs.content.claims",
        old="                return held\n            (self._folder / key)",
        new="                pass\n            (self._folder / key)",
        test=CONTENT + "test_claims.py::test_only_its_holder_releases_it",
    ),
    Pair(
        check="token to read",
        module="clipfs.content.tokens",
        old="return MAY_WRITE if may_write else MAY_READ if may_read else NOTHING",
        new="return MAY_WRITE if may_write else MAY_READ",
        test=CONTENT + "test_objects.py::test_a_token_gives_its_rights_and_no_others",
    ),
    Pair(
        check="token to write",
        module="clipfs.content.tokens",
        old="return MAY_WRITE if may_write else MAY_READ if may_read else NOTHING",
        new="return MAY_WRITE if may_write or may_read else NOTHING",
        test=CONTENT + "test_objects.py::test_a_token_gives_its_rights_and_no_others",
    ),
    Pair(
        check="token to read, open files",
        module="clipfs.content.hot",
        old='or not self._tokens.rights(headers.get(b"authorization")).read',
        new="",
        test=CONTENT + "test_hot.py::test_a_hot_object_still_needs_a_token",
    ),
    Pair(
        check="changes seen by all workers",
        module="clipfs.content.hot",
        old="if self._changes != self._seen:",
        new="if False:",
        test=CONTENT
        + "test_hot.py::test_a_hot_object_that_another_worker_replaced_is_never_served_again",
    ),
    Pair(
        check="keys of the content cache",
        module="clipfs.content.keys",
        old="    if _PAGE_KEY.fullmatch(key):\n",
        new="    if key:\n",
        test=CONTENT + "test_objects.py::test_what_is_no_key_is_not_found_and_touches_no_file",
    ),
    Pair(
        check="access at every publish",
        module="csi.publisher",
        old="        image, chosen = self._admissions.joined(volume, pinned, call)\n",
        new="        seen = self.__dict__.setdefault('seen', {})\n"
        "        image, chosen = seen.get(volume.image) or self._admissions.joined(\n"
        "            volume, pinned, call\n"
        "        )\n"
        "        seen[volume.image] = image, chosen\n",
        test="tests/csi/test_credentials.py::"
        "test_each_pod_needs_credentials_of_its_own_whatever_is_on_the_node",
    ),
    Pair(
        check="credentials of an answer that came between calls",
        module="csi.admissions",
        old="volume.credentials.to_json(),",
        new='"",',
        test="tests/csi/test_admissions.py::"
        "test_a_call_that_comes_again_with_other_credentials_asks_anew",
    ),
    Pair(
        check="access of a mounted volume",
        module="csi.renewal",
        old="return self.prove(volume, known.digest, config)",
        new="return None",
        test="tests/csi/test_renewal.py::test_a_refusal_is_told_once_and_its_end_too",
    ),
    Pair(
        check="digest of a proof",
        module="clipfs.image.document",
        old="if expected is not None and stated != expected:",
        new="if False:",
        test=IMAGE + "test_proof.py::"
        "test_a_head_that_names_another_digest_than_was_asked_for_is_corrupt",
    ),
    Pair(
        check="proof, whose",
        module="csi.access.proofs",
        old='mark=hmac.new(keys.keys[0], content, "sha256").hexdigest(),',
        new='mark="",',
        test=ACCESS + "test_grace.py::test_other_credentials_do_not",
    ),
    Pair(
        check="proof, of which digest",
        module="csi.access.proofs",
        old="at_s = kept.at_s.get(digest) if kept is not None else None",
        new="at_s = max(kept.at_s.values()) if kept is not None else None",
        test=ACCESS + "test_grace.py::test_a_proof_of_what_a_tag_was_is_none_of_what_it_is",
    ),
    Pair(
        check="proof, how old",
        module="csi.access.proofs",
        old="return 0 <= self._clock.wall_s() - at_s < grace_s",
        new="return True",
        test=ACCESS + "test_grace.py::test_after_the_grace_nobody_goes_on",
    ),
    Pair(
        check="proof, HMAC",
        module="clipfs.layer.seal",
        old="if hmac.compare_digest(tag, _tag(key, content, kind, version, name)):",
        new="if True:",
        test=ACCESS + "test_tenants.py::"
        "test_a_proof_that_was_given_another_callers_name_proves_nothing",
    ),
    Pair(
        check="proof, by tag",
        module="csi.access.admission",
        old="ImageNotFound, errors.CorruptImage):\n"
        "                return await self._proved(digest, image)",
        new="ImageNotFound, errors.CorruptImage):\n                return image",
        test=ACCESS + "test_every_path.py::"
        "test_who_has_no_right_at_its_registry_gets_nothing[disk]",
    ),
    Pair(
        check="proof, by digest",
        module="csi.access.admission",
        old="return await self._resolved(digest)\n        return await self._proved(digest, image)",
        new="return await self._resolved(digest)\n        return image",
        test=ACCESS + "test_every_path.py::"
        "test_who_has_no_right_at_its_registry_gets_nothing[mounted]",
    ),
    Pair(
        check="proof, Never",
        module="csi.access.admission",
        old="# which tells the digest\n                return await self._proved(digest, image)",
        new="# which tells the digest\n                return image",
        test=ACCESS + "test_every_path.py::"
        "test_who_has_no_right_at_its_registry_gets_nothing[disk]",
    ),
    Pair(
        check="proof, Always and in flight",
        module="csi.access.admission",
        old="if await self.registry.prove(self.volume.image) != digest:",
        new="if False:",
        test=ACCESS + "test_every_path.py::"
        "test_who_has_no_right_at_its_registry_gets_nothing[in flight]",
    ),
    Pair(
        check="proof, a minute",
        module="csi.access.proofs",
        old="return self._fresh.get((caller, digest), 0) > self._clock.now_s()",
        new="return self._fresh.get((caller, digest), 0) > 0",
        test=ACCESS + "test_a_minute.py::"
        "test_a_right_that_is_taken_away_holds_for_a_minute_and_no_longer",
    ),
    Pair(
        check="proofs at once, whose",
        module="csi.access.access",
        old="volume.pull_policy, pinned, credentials.to_json()),",
        new="volume.pull_policy, pinned),",
        test=ACCESS + "test_a_minute.py::"
        "test_volumes_that_come_at_once_are_each_asked_for_with_their_own_credentials[IfNotPresent-tag]",
    ),
    Pair(
        check="origin of what is mounted, hostile registry",
        module="csi.mounter",
        old="if lacks_origin(self._layout, self._keys, image):",
        new="if False:",
        test=ACCESS + "test_every_path.py::"
        "test_a_hostile_registry_that_names_the_layer_opens_nothing_of_it[mounted]",
    ),
    Pair(
        check="origin record, hostile registry",
        module="clipfs.tiers.proofs",
        old="if not await self.has(layer, self._host):",
        new="if False:",
        test=ACCESS + "test_every_path.py::"
        "test_a_hostile_registry_that_names_the_layer_opens_nothing_of_it[disk]",
    ),
    Pair(
        check="origin record, hostile registry, content cache",
        module="clipfs.tiers.proofs",
        old="if not await self.has(layer, self._host):",
        new="if False:",
        test=ACCESS + "test_every_path.py::"
        "test_a_hostile_registry_that_names_the_layer_opens_nothing_of_it[cache]",
    ),
    Pair(
        check="refusals take proofs back",
        module="csi.access.admission",
        old="self.proofs.take_back_all(self.caller)",
        new="pass",
        test=ACCESS + "test_tenants.py::"
        "test_who_lost_the_right_does_not_get_it_back_when_the_registry_is_away",
    ),
    Pair(
        check="images by repository",
        module="csi.access.known",
        old="return reference.registry, reference.repository, digest, str(platform)",
        new="return digest, str(platform)",
        test=ACCESS + "test_tenants.py::"
        "test_a_repository_must_deliver_itself_what_another_has_delivered",
    ),
    Pair(
        check="policy",
        module="csi.access.access",
        old="self._policy.check(volume)",
        new="pass",
        test=ACCESS + "test_policy.py::test_what_the_policy_refuses_no_registry_is_asked_for",
    ),
    Pair(
        check="namespaces of pull secrets",
        module="csi.credentials.pull_secrets",
        old="if volume.pod is None or not may_ask(volume.pod, self._namespaces):",
        new="if volume.pod is None:",
        test="tests/csi/test_credential_sources.py::"
        "test_pull_secrets_are_read_in_the_namespaces_that_are_allowed_and_no_others",
    ),
    Pair(
        check="tokens, whose word",
        module="csi.volume",
        old="tokens=tokens_of(context, request.secrets) if rules.token_requests else {},",
        new="tokens=tokens_of(context, request.secrets),",
        test="tests/csi/test_providers.py::test_a_token_that_a_pods_author_wrote_is_not_passed_on",
    ),
    Pair(
        check="service account of a provider's answer",
        module="csi.credentials.providers",
        old="account_key(wants, volume.pod, token, annotations),",
        new='"",',
        test="tests/csi/test_providers.py::"
        "test_answers_are_remembered_for_an_account_or_a_token_and_never_for_another_account",
    ),
    Pair(
        check="environment of a provider",
        module="csi.credentials.plugin",
        old="if not _SECRET_NAME.search(name)",
        new="",
        test="tests/csi/test_providers.py::test_a_plugin_sees_no_secret_of_the_drivers_environment",
    ),
    Pair(
        check="user at the credentials' socket",
        module="csi.credentials.handing",
        old="return bool(uid == os.geteuid())",
        new="return True",
        test="tests/csi/test_handing.py::test_another_user_is_told_nothing",
    ),
    Pair(
        check="credentials of a volume that is gone",
        module="csi.credentials.handing",
        old="if server.said is not None and server.said.volume == volume:",
        new="if False:",
        test="tests/csi/test_handing.py::"
        "test_with_a_volume_that_is_gone_its_credentials_go_and_anothers_come",
    ),
    Pair(
        check="refusals, whose",
        module="csi.trees",
        old="                    if tried:\n                        raise",
        new="                    raise",
        test=ACCESS + "test_shared_work.py::"
        "test_a_right_that_is_taken_away_in_the_middle_fails_nobody_who_has_one",
    ),
    Pair(
        check="uid of a pod, pull secrets",
        module="csi.cluster.pod_secrets",
        old="if found is None or uid != pod.uid:",
        new="if found is None:",
        test="tests/csi/test_pod_secrets.py::test_another_pod_of_that_name_gives_nothing",
    ),
    Pair(
        check="single-flight, chunk",
        module="clipfs.tiers.chain",
        old="if (key, c) not in self._coming",
        new="",
        test=TIERS + "test_chain.py::test_a_chunk_is_fetched_once_however_many_readers_want_it",
    ),
    Pair(
        check="single-flight, layer and node",
        module="clipfs.system.locks",
        old="fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        new="pass",
        test=TIERS + "test_trust.py::"
        "test_one_layer_is_downloaded_by_one_process_of_a_node_at_a_time",
    ),
    Pair(
        check="single-flight, layer and cluster",
        module="clipfs.tiers.sharing",
        old="if self._claimant.is_nodes(claim.holder):",
        new="if True:",
        test=TIERS + "test_sharing.py::test_of_ten_nodes_one_brings_the_layer",
    ),
    Pair(
        check="payload bound",
        module="clipfs.layer.codec",
        old="if self.payload_bytes > self._limit:",
        new="if False:",
        test="tests/layer/test_codec.py::test_a_payload_over_its_limit_is_refused_with_the_figure",
    ),
    Pair(
        check="raw key",
        module="clipfs.image.model",
        old='(".raw" if self.raw_path is not None else "")',
        new='""',
        test="tests/image/test_manifest.py::test_a_layer_of_an_artifact_is_one_file_or_a_tar",
    ),
    Pair(
        check="credential at a redirect",
        module="clipfs.image.http",
        old="if not same_origin(target, url):",
        new="if False:",
        test="tests/image/test_redirects_and_tokens.py::test_documents_are_followed_elsewhere_without_the_credential",
    ),
    Pair(
        check="words of a registry",
        module="clipfs.image.failures",
        old='return "" if any(secret in words for secret in shown) else printable(words)',
        new="return printable(words)",
        test=IMAGE + "test_hostile_registry.py::"
        "test_what_a_registry_repeats_of_our_credentials_is_told_to_nobody",
    ),
    Pair(
        check="use lock",
        module="clipfs.cache.collect",
        old="if not (unused and unfilled) or item.key in users_of(layout):",
        new="if item.key in users_of(layout):",
        test="tests/cache/test_collect.py::test_what_somebody_prepares_stays_and_another_goes_instead",
    ),
    Pair(
        check="record, under the lock",
        module="clipfs.cache.collect",
        old="if not (unused and unfilled) or item.key in users_of(layout):",
        new="if not (unused and unfilled):",
        test="tests/cache/test_collect.py::test_who_takes_a_layer_up_without_its_lock_is_seen_by_the_record",
    ),
    Pair(
        check="use lock, publish",
        module="csi.trees",
        old="return [cache_key(image.digest), *(one.cache_key for one in image.layers)]",
        new="return []",
        test="tests/csi/test_publisher.py::test_what_never_was_promised_by_is_not_evicted_before_it_is_mounted",
    ),
    Pair(
        check="nosuid and nodev of a volume",
        module="clipfs.mount.syscalls",
        old="MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV",
        new="MS_REMOUNT | MS_BIND | MS_RDONLY",
        test="tests/csi/test_driver.py::test_a_published_volume_shows_the_image_and_goes_without_a_trace",
    ),
]


def test_the_pairs_are_those_of_the_document() -> None:
    text = (REPOSITORY / "docs/security.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \|[^|]*\| `([^`|]+)` \|$", text, re.MULTILINE)
    assert rows == [(pair.check, pair.test) for pair in PAIRS]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[str]]]:
    """What became of each pair's test, as many at once as there are CPUs for it."""
    test = test_without_its_check_the_test_goes_red.__name__
    bodies = {
        f"{test}[{pair.check}]": partial(
            run_without, test=pair.test, module=pair.module, old=pair.old, new=pair.new
        )
        for pair in PAIRS
    }
    with at_once(request, bodies, most=cpus()) as found:
        yield found


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.check)
def test_without_its_check_the_test_goes_red(
    pair: Pair, request: pytest.FixtureRequest, outcomes: Mapping[str, Future[str]]
) -> None:
    compile(changed(source_of(pair.module), pair.old, pair.new), pair.module, "exec")
    said = outcomes[request.node.name].result()
    verdict = said.splitlines()[-1]
    assert re.search(r"\d+ failed", verdict), said
    assert " error" not in verdict, said
