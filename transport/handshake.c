/* Invariants
 * 1. Nothing of a hello is used for arithmetic before its proof was compared, in constant time, under one of
 * the keys; nothing of an identity before it was decrypted.
 * 2. An ephemeral secret serves one handshake and is wiped as soon as the shared secret is hashed.
 * 3. The directional keys depend on every byte of both hellos: whoever changes one ends the handshake.
 * 4. A refused handshake takes no more bytes.
 *
 * States: dialler HELLO -on_answer-> VERDICT -on_verdict-> DONE; acceptor HELLO -on_hello-> CONFIRM
 * -on_confirm-> DONE; from each of them -refuse-> REFUSED. */
#include "transport/handshake.h"

#include "base/buffer.h"
#include "base/text.h"

#include <stdio.h>
#include <string.h>

#define SECRETSTREAM(name) crypto_secretstream_xchacha20poly1305_##name

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_ROLE = 5,
    AT_KEY_ID = 6,
    AT_ZERO = 7,
    AT_EPHEMERAL = 8,
    AT_RANDOM = 40
};
enum { AT_PROOF = HANDSHAKE_HELLO_BYTES - HANDSHAKE_PROOF_BYTES };

#define ROLE_DIALLER 1
#define ROLE_ACCEPTOR 2

static const uint8_t magic[4] = {'D', 'N', 'P', 'R'};
static const uint8_t proof_label[] = "dunlin peer hello";
static const uint8_t session_label[] = "dunlin peer session";

const char *refusal_label(enum refusal refusal)
{
    static const char *const labels[] = {
#define X(name, label, text) label,
        REFUSALS(X)
#undef X
    };
    _Static_assert(sizeof labels / sizeof *labels == REFUSED_COUNT, "one label for each refusal");
    return labels[refusal];
}

const char *refusal_text(enum refusal refusal)
{
    static const char *const texts[] = {
#define X(name, label, text) text,
        REFUSALS(X)
#undef X
    };
    return texts[refusal];
}

static void refuse(struct handshake *h, enum refusal why)
{
    h->state = HANDSHAKE_REFUSED;
    h->refusal = why;
    sodium_memzero(h->secret, sizeof h->secret);
    sodium_memzero(&h->send, sizeof h->send);
    sodium_memzero(&h->receive, sizeof h->receive);
}

void handshake_wipe(struct handshake *h)
{
    sodium_memzero(h, sizeof *h);
    h->state = HANDSHAKE_REFUSED;
}

/* first: the dialler's hello, when the proof is the acceptor's; otherwise NULL. */
static void proof_of(const uint8_t *key, const uint8_t *first, const uint8_t *hello,
                     uint8_t ret_proof[HANDSHAKE_PROOF_BYTES])
{
    crypto_generichash_state state;
    crypto_generichash_init(&state, key, DN_TRANSPORT_KEY_BYTES, HANDSHAKE_PROOF_BYTES);
    crypto_generichash_update(&state, proof_label, sizeof proof_label);
    if (first != NULL) {
        crypto_generichash_update(&state, first, HANDSHAKE_HELLO_BYTES);
    }
    crypto_generichash_update(&state, hello, AT_PROOF);
    crypto_generichash_final(&state, ret_proof, HANDSHAKE_PROOF_BYTES);
    sodium_memzero(&state, sizeof state);
}

static void hello_write(struct handshake *h, const uint8_t *key, uint8_t key_id, uint8_t *out)
{
    uint8_t public_key[crypto_box_PUBLICKEYBYTES];
    memcpy(out + AT_MAGIC, magic, sizeof magic);
    out[AT_VERSION] = HANDSHAKE_VERSION;
    out[AT_ROLE] = h->dialler ? ROLE_DIALLER : ROLE_ACCEPTOR;
    out[AT_KEY_ID] = key_id;
    out[AT_ZERO] = 0;
    crypto_box_keypair(public_key, h->secret);
    memcpy(out + AT_EPHEMERAL, public_key, sizeof public_key);
    randombytes_buf(out + AT_RANDOM, AT_PROOF - AT_RANDOM);
    proof_of(key, h->dialler ? NULL : h->hello, out, out + AT_PROOF);
}

/* What can be said of a hello without a key. */
static enum refusal hello_judge(const uint8_t *hello, uint8_t role)
{
    if (memcmp(hello + AT_MAGIC, magic, sizeof magic) != 0) {
        return REFUSED_MALFORMED;
    }
    if (hello[AT_VERSION] != HANDSHAKE_VERSION) {
        return REFUSED_VERSION;
    }
    return hello[AT_ROLE] != role || hello[AT_ZERO] != 0 ? REFUSED_MALFORMED : REFUSED_NONE;
}

/* The two directional keys; dialler to acceptor first. False: the shared secret is no secret. */
static bool agree(struct handshake *h, const uint8_t *key, const uint8_t *theirs, const uint8_t *answer,
                  uint8_t ret_keys[2 * SECRETSTREAM(KEYBYTES)])
{
    crypto_generichash_state state;
    uint8_t shared[crypto_scalarmult_BYTES];
    bool ok = crypto_scalarmult(shared, h->secret, theirs) == 0 && !sodium_is_zero(shared, sizeof shared);
    sodium_memzero(h->secret, sizeof h->secret);
    if (ok) {
        crypto_generichash_init(&state, key, DN_TRANSPORT_KEY_BYTES, 2 * SECRETSTREAM(KEYBYTES));
        crypto_generichash_update(&state, session_label, sizeof session_label);
        crypto_generichash_update(&state, shared, sizeof shared);
        crypto_generichash_update(&state, h->hello, HANDSHAKE_HELLO_BYTES);
        crypto_generichash_update(&state, answer, HANDSHAKE_HELLO_BYTES);
        crypto_generichash_final(&state, ret_keys, 2 * SECRETSTREAM(KEYBYTES));
        sodium_memzero(&state, sizeof state);
    }
    sodium_memzero(shared, sizeof shared);
    return ok;
}

/* ---- identities --------------------------------------------------------------------------------------- */

/* The last byte of the place of the node's name is its level. Builds before levels left it 0, and do not look
 * at what stands behind the name. */
enum { AT_LEVEL = HANDSHAKE_IDENTITY_BYTES - 1, NODE_NAME_MAX = DN_TRANSPORT_NAME_MAX - 1 };

static void put_u64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static void put_name(uint8_t *at, const char *name, size_t max)
{
    size_t length = strnlen(name, max);
    at[0] = (uint8_t)length;
    memcpy(at + 1, name, length);
}

static void identity_write(const struct handshake *h, uint8_t out[HANDSHAKE_IDENTITY_BYTES])
{
    const struct handshake_party *party = h->party;
    memset(out, 0, HANDSHAKE_IDENTITY_BYTES);
    put_u64(out, party->self.raft_id);
    put_u64(out + 8, party->self.incarnation);
    put_u64(out + 16, h->dialler ? h->expected_raft_id : 0);
    put_name(out + 24, party->cluster_id, DN_TRANSPORT_NAME_MAX);
    put_name(out + 25 + DN_TRANSPORT_NAME_MAX, party->self.name, NODE_NAME_MAX);
    out[AT_LEVEL] = party->self.level;
}

/* Names are printed in logs: no control characters. */
static bool take_name(struct dn_reader *reader, char ret_name[DN_TRANSPORT_NAME_MAX + 1])
{
    size_t length = dn_reader_u8(reader);
    const uint8_t *bytes = dn_reader_bytes(reader, DN_TRANSPORT_NAME_MAX);
    if (bytes == NULL || length > DN_TRANSPORT_NAME_MAX || !dn_utf8_valid(bytes, length)) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] < 0x20 || bytes[i] == 0x7f) {
            return false;
        }
    }
    memcpy(ret_name, bytes, length);
    ret_name[length] = '\0';
    return true;
}

/* Takes the other side's identity and says what is wrong with it. */
static enum refusal identity_judge(struct handshake *h, const uint8_t plain[HANDSHAKE_IDENTITY_BYTES])
{
    struct dn_reader reader;
    char cluster[DN_TRANSPORT_NAME_MAX + 1];
    struct dn_transport_peer_id peer;
    dn_reader_init(&reader, plain, HANDSHAKE_IDENTITY_BYTES);
    peer.raft_id = dn_reader_u64(&reader);
    peer.incarnation = dn_reader_u64(&reader);
    uint64_t expected = dn_reader_u64(&reader);
    if (!take_name(&reader, cluster) || !take_name(&reader, peer.name) || peer.raft_id == 0) {
        return REFUSED_MALFORMED;
    }
    peer.level = strlen(peer.name) <= NODE_NAME_MAX ? plain[AT_LEVEL] : 0;
    h->peer = peer;
    if (strcmp(cluster, h->party->cluster_id) != 0) {
        return REFUSED_CLUSTER;
    }
    if (h->dialler) {
        return h->expected_raft_id != 0 && peer.raft_id != h->expected_raft_id ? REFUSED_WRONG_PEER
                                                                               : REFUSED_NONE;
    }
    if (expected != 0 && expected != h->party->self.raft_id) {
        return REFUSED_WRONG_PEER;
    }
    return h->party->admit == NULL ? REFUSED_NONE : h->party->admit(h->data, &peer);
}

static void confirm_write(struct handshake *h, const uint8_t *key, uint8_t *out)
{
    uint8_t plain[HANDSHAKE_IDENTITY_BYTES];
    identity_write(h, plain);
    SECRETSTREAM(init_push)(&h->send, out, key);
    SECRETSTREAM(push)
    (&h->send, out + SECRETSTREAM(HEADERBYTES), NULL, plain, sizeof plain, NULL, 0,
     SECRETSTREAM(TAG_MESSAGE));
}

/* Decrypts one fixed-size piece; the final tag has no place in a handshake. */
static bool pull(struct handshake *h, uint8_t *plain, size_t plain_length, const uint8_t *cipher)
{
    unsigned char tag;
    return SECRETSTREAM(pull)(&h->receive, plain, NULL, &tag, cipher, plain_length + SECRETSTREAM(ABYTES),
                              NULL, 0) == 0 &&
           tag == SECRETSTREAM(TAG_MESSAGE);
}

/* ---- steps -------------------------------------------------------------------------------------------- */

static bool seen_before(struct handshake_seen *seen, const uint8_t *proof)
{
    for (size_t i = 0; i < HANDSHAKE_SEEN_MAX; i++) {
        if (memcmp(seen->proof[i], proof, HANDSHAKE_PROOF_BYTES) == 0) {
            return true;
        }
    }
    memcpy(seen->proof[seen->next], proof, HANDSHAKE_PROOF_BYTES);
    seen->next = (seen->next + 1) % HANDSHAKE_SEEN_MAX;
    return false;
}

/* Which of our keys made this hello's proof? NULL, and why none. Two keys may share an id byte: each is
 * tried. */
static const uint8_t *key_of(const struct handshake *h, const uint8_t *secrets, const uint8_t *first,
                             const uint8_t *hello, enum refusal *ret_why)
{
    const struct dn_transport_keys *keys = h->party->keys;
    const uint8_t *found = NULL;
    *ret_why = REFUSED_KEY;
    for (unsigned i = 0; i < keys->count; i++) {
        uint8_t proof[HANDSHAKE_PROOF_BYTES];
        const uint8_t *key = secrets + (size_t)i * DN_TRANSPORT_KEY_BYTES;
        if (keys->id[i] != hello[AT_KEY_ID]) {
            continue;
        }
        *ret_why = REFUSED_TAMPERED;
        proof_of(key, first, hello, proof);
        if (sodium_memcmp(proof, hello + AT_PROOF, sizeof proof) == 0) {
            found = key;
        }
        sodium_memzero(proof, sizeof proof);
    }
    return found;
}

/* Acceptor: the hello is here. */
static void on_hello(struct handshake *h, uint8_t *out, size_t *ret_out)
{
    const uint8_t *secrets, *key;
    uint8_t keys[2 * SECRETSTREAM(KEYBYTES)];
    enum refusal why = hello_judge(h->in, ROLE_DIALLER);
    if (why != REFUSED_NONE) {
        refuse(h, why);
        return;
    }
    secrets = keys_open_for_use(h->party->keys);
    if (secrets == NULL) {
        refuse(h, REFUSED_KEY);
        return;
    }
    key = key_of(h, secrets, NULL, h->in, &why);
    if (key == NULL) {
        refuse(h, why);
        goto opened;
    }
    if (h->party->seen != NULL && seen_before(h->party->seen, h->in + AT_PROOF)) {
        refuse(h, REFUSED_REPLAY);
        goto opened;
    }
    memcpy(h->hello, h->in, HANDSHAKE_HELLO_BYTES);
    hello_write(h, key, h->in[AT_KEY_ID], out);
    if (!agree(h, key, h->hello + AT_EPHEMERAL, out, keys)) {
        refuse(h, REFUSED_MALFORMED);
        goto opened;
    }
    confirm_write(h, keys + SECRETSTREAM(KEYBYTES), out + HANDSHAKE_HELLO_BYTES);
    *ret_out = HANDSHAKE_STEP_MAX;
    /* The header that starts the receiving stream comes later; its key waits in the place of the used secret.
     */
    _Static_assert(sizeof h->secret == SECRETSTREAM(KEYBYTES), "a key fits where the secret was");
    memcpy(h->secret, keys, SECRETSTREAM(KEYBYTES));
    h->state = HANDSHAKE_CONFIRM;
opened:
    sodium_memzero(keys, sizeof keys);
    keys_close_after_use(h->party->keys);
}

/* Starts the receiving stream and takes the identity in it. */
static bool confirm_read(struct handshake *h, const uint8_t *key, const uint8_t *confirm,
                         uint8_t ret_plain[HANDSHAKE_IDENTITY_BYTES])
{
    return SECRETSTREAM(init_pull)(&h->receive, confirm, key) == 0 &&
           pull(h, ret_plain, HANDSHAKE_IDENTITY_BYTES, confirm + SECRETSTREAM(HEADERBYTES));
}

/* Acceptor: the dialler's identity is here. */
static void on_confirm(struct handshake *h, uint8_t *out, size_t *ret_out)
{
    uint8_t plain[HANDSHAKE_IDENTITY_BYTES];
    bool ok = confirm_read(h, h->secret, h->in, plain);
    sodium_memzero(h->secret, sizeof h->secret);
    if (!ok) {
        refuse(h, REFUSED_TAMPERED);
        return;
    }
    enum refusal why = identity_judge(h, plain);
    uint8_t verdict = (uint8_t)why;
    SECRETSTREAM(push)(&h->send, out, NULL, &verdict, 1, NULL, 0, SECRETSTREAM(TAG_MESSAGE));
    *ret_out = HANDSHAKE_VERDICT_BYTES;
    if (why != REFUSED_NONE) {
        refuse(h, why);
    } else {
        h->state = HANDSHAKE_DONE;
    }
}

/* Dialler: the acceptor's hello and identity are here. Also an acceptor that is not the right one is told who
 * we are, so that both sides can name the mistake. */
static void on_answer(struct handshake *h, uint8_t *out, size_t *ret_out)
{
    const uint8_t *secrets, *key;
    uint8_t keys[2 * SECRETSTREAM(KEYBYTES)], plain[HANDSHAKE_IDENTITY_BYTES];
    enum refusal why = hello_judge(h->in, ROLE_ACCEPTOR);
    if (why != REFUSED_NONE) {
        refuse(h, why);
        return;
    }
    if (h->in[AT_KEY_ID] != h->hello[AT_KEY_ID]) {
        refuse(h, REFUSED_KEY);
        return;
    }
    secrets = keys_open_for_use(h->party->keys);
    if (secrets == NULL) {
        refuse(h, REFUSED_KEY);
        return;
    }
    key = key_of(h, secrets, h->hello, h->in, &why);
    if (key == NULL) {
        refuse(h, why);
        goto opened;
    }
    if (!agree(h, key, h->in + AT_EPHEMERAL, h->in, keys)) {
        refuse(h, REFUSED_MALFORMED);
        goto opened;
    }
    if (!confirm_read(h, keys + SECRETSTREAM(KEYBYTES), h->in + HANDSHAKE_HELLO_BYTES, plain)) {
        refuse(h, REFUSED_TAMPERED);
        goto opened;
    }
    h->refusal = identity_judge(h, plain);
    confirm_write(h, keys, out);
    *ret_out = HANDSHAKE_CONFIRM_BYTES;
    h->state = HANDSHAKE_VERDICT;
opened:
    sodium_memzero(keys, sizeof keys);
    keys_close_after_use(h->party->keys);
}

/* Dialler: admitted, or not? */
static void on_verdict(struct handshake *h)
{
    uint8_t verdict;
    if (!pull(h, &verdict, 1, h->in)) {
        refuse(h, REFUSED_TAMPERED);
    } else if (h->refusal != REFUSED_NONE) {
        refuse(h, h->refusal);
    } else if (verdict != REFUSED_NONE) {
        h->judged = true;
        refuse(h, verdict < REFUSED_COUNT ? (enum refusal)verdict : REFUSED_MALFORMED);
    } else {
        h->state = HANDSHAKE_DONE;
    }
}

/* ---- doors -------------------------------------------------------------------------------------------- */

bool handshake_dial(struct handshake *h, const struct handshake_party *party, uint64_t expected_raft_id,
                    uint8_t out[HANDSHAKE_STEP_MAX], size_t *ret_out)
{
    const uint8_t *secrets = keys_open_for_use(party->keys);
    if (secrets == NULL) {
        return false;
    }
    memset(h, 0, sizeof *h);
    h->dialler = true;
    h->party = party;
    h->expected_raft_id = expected_raft_id;
    hello_write(h, secrets, party->keys->id[0], out);
    memcpy(h->hello, out, HANDSHAKE_HELLO_BYTES);
    *ret_out = HANDSHAKE_HELLO_BYTES;
    keys_close_after_use(party->keys);
    return true;
}

void handshake_accept(struct handshake *h, const struct handshake_party *party, void *data)
{
    memset(h, 0, sizeof *h);
    h->party = party;
    h->data = data;
}

static size_t step_bytes(const struct handshake *h)
{
    switch (h->state) {
    case HANDSHAKE_HELLO:
        return h->dialler ? HANDSHAKE_STEP_MAX : HANDSHAKE_HELLO_BYTES;
    case HANDSHAKE_CONFIRM:
        return HANDSHAKE_CONFIRM_BYTES;
    case HANDSHAKE_VERDICT:
        return HANDSHAKE_VERDICT_BYTES;
    default:
        return 0;
    }
}

size_t handshake_input(struct handshake *h, const uint8_t *bytes, size_t length,
                       uint8_t out[HANDSHAKE_STEP_MAX], size_t *ret_out)
{
    size_t need = step_bytes(h), take = length < need - h->got ? length : need - h->got;
    *ret_out = 0;
    if (need == 0) {
        return 0;
    }
    memcpy(h->in + h->got, bytes, take);
    h->got += take;
    if (h->state == HANDSHAKE_HELLO && h->got >= sizeof magic && memcmp(h->in, magic, sizeof magic) != 0) {
        refuse(h, REFUSED_MALFORMED); /* no need to wait for the rest of a web browser's request */
        return take;
    }
    if (h->got < need) {
        return take;
    }
    h->got = 0;
    switch (h->state) {
    case HANDSHAKE_HELLO:
        if (h->dialler) {
            on_answer(h, out, ret_out);
        } else {
            on_hello(h, out, ret_out);
        }
        break;
    case HANDSHAKE_CONFIRM:
        on_confirm(h, out, ret_out);
        break;
    default:
        on_verdict(h);
        break;
    }
    return take;
}
