/* The challenger as it is replicated, behind the model's weights and the squares (learn.c):
 *
 *   u32 magic, u16 units, u16 features, u32 steps, u32 leads, f32 loss, f32 the model's loss,
 *   then rows x units f32 weights, then as many f32 squares; little endian
 *
 * Rows are those of model.h, features last. */
#include "recommend/network.h"

#include <float.h>
#include <string.h>

#define MAGIC 0x4e4e4e44u /* "DNNN" */

static void encode_rows(const float rows[DN_NETWORK_ROWS][DN_NETWORK_UNITS], struct dn_buffer *out)
{
    for (size_t row = 0; row < DN_NETWORK_ROWS; row++)
        for (size_t u = 0; u < DN_NETWORK_UNITS; u++)
            dn_buffer_f32(out, rows[row][u]);
}

void dn_challenger_encode(const struct dn_challenger *challenger, struct dn_buffer *out)
{
    const struct dn_network *network = &challenger->network;

    dn_buffer_u32(out, MAGIC);
    dn_buffer_u16(out, DN_NETWORK_UNITS);
    dn_buffer_u16(out, DN_FEATURE_COUNT);
    dn_buffer_u32(out, network->steps);
    dn_buffer_u32(out, network->leads);
    dn_buffer_f32(out, network->loss);
    dn_buffer_f32(out, network->model_loss);
    encode_rows(network->weights, out);
    encode_rows(challenger->squares, out);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weights are copied as they are");

/* Every request does this: all at once. */
static bool decode_weights(struct dn_reader *in, size_t rows, float ret[DN_NETWORK_ROWS][DN_NETWORK_UNITS])
{
    const float most = DN_NETWORK_WEIGHT_MAX;
    uint32_t limit, row[DN_NETWORK_UNITS], beyond = 0;
    const uint8_t *bytes = dn_reader_bytes(in, sizeof row * rows);

    if (bytes == NULL)
        return false;
    memcpy(&limit, &most, sizeof limit);
    memcpy(ret, bytes, sizeof row * rows);
    for (size_t r = 0; r < rows; r++) {
        memcpy(row, ret[r], sizeof row);
        for (size_t u = 0; u < DN_NETWORK_UNITS; u++) /* as bits, what is no number is beyond all numbers */
            beyond |= limit - (row[u] & 0x7fffffffu);
    }
    return (beyond & 0x80000000u) == 0;
}

static bool decode_squares(struct dn_reader *in, size_t rows, float ret[DN_NETWORK_ROWS][DN_NETWORK_UNITS])
{
    bool good = true;

    for (size_t i = 0; good && i < rows * DN_NETWORK_UNITS; i++) {
        float *square = &ret[i / DN_NETWORK_UNITS][i % DN_NETWORK_UNITS];
        *square = dn_reader_f32(in);
        good = *square >= FLT_MIN && *square <= DN_NETWORK_SQUARE_MAX; /* no number neither */
    }
    return good && !in->failed;
}

/* False: no network's, cut short, or what no learner writes. ret_features: 0 where the size is another
 * build's. */
static bool decode_head(struct dn_reader *in, struct dn_network *ret, size_t *ret_features)
{
    uint32_t magic = dn_reader_u32(in);
    size_t units = dn_reader_u16(in), features = dn_reader_u16(in);
    uint32_t steps = dn_reader_u32(in), leads = dn_reader_u32(in);
    float loss = dn_reader_f32(in), model_loss = dn_reader_f32(in);

    if (in->failed || magic != MAGIC || units < 1 || features < 1 || leads > 1)
        return false;
    if (!(loss >= 0 && loss <= DN_NETWORK_LOSS_MAX && model_loss >= 0 && model_loss <= DN_NETWORK_LOSS_MAX))
        return false;
    ret->steps = steps;
    ret->leads = leads == 1 && steps > 0;
    ret->loss = loss;
    ret->model_loss = model_loss;
    *ret_features = units == DN_NETWORK_UNITS && features <= DN_FEATURE_COUNT ? features : 0;
    return true;
}

enum dn_code dn_challenger_decode(struct dn_reader *in, struct dn_challenger *ret, struct dn_error *err)
{
    struct dn_challenger read;
    size_t features = 0;

    dn_challenger_reset(&read);
    if (!decode_head(in, &read.network, &features))
        return dn_fail(err, DN_CORRUPT, "what is behind the learner's squares is no network");
    if (features == 0) {
        dn_challenger_reset(ret);
        return DN_OK;
    }
    /* What a build with fewer features did not see says nothing until it is learned. */
    memset(read.network.weights, 0, sizeof read.network.weights);
    if (!decode_weights(in, DN_NETWORK_FEATURES + features, read.network.weights))
        return dn_fail(err, DN_CORRUPT, "a network's weight is beyond %g, no number or missing",
                       (double)DN_NETWORK_WEIGHT_MAX);
    if (!decode_squares(in, DN_NETWORK_FEATURES + features, read.squares))
        return dn_fail(err, DN_CORRUPT, "a network's square is not above 0, too large, no number or missing");
    *ret = read;
    return DN_OK;
}

bool dn_network_find(const uint8_t *bytes, size_t length, struct dn_network *ret)
{
    struct dn_reader in;
    size_t features = 0;

    *ret = (struct dn_network){0};
    dn_reader_init(&in, bytes, length);
    if (dn_reader_u32(&in) != DN_SQUARES_MAGIC)
        return false;
    size_t vectors = dn_reader_u16(&in), each = dn_reader_u16(&in);
    (void)dn_reader_bytes(&in, sizeof(float) * vectors * each);
    if (decode_head(&in, ret, &features) && features > 0 &&
        decode_weights(&in, DN_NETWORK_FEATURES + features, ret->weights))
        return true;
    *ret = (struct dn_network){0};
    return false;
}
