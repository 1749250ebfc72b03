
/* Appended to liboqs 0.13's src/sig/sig.c: liboqs 0.14 added this function to its interface and
 * liboqs-python 0.16 asks for it when it is imported. */
OQS_API bool OQS_SIG_supports_ctx_str(const char *alg_name);

OQS_API bool OQS_SIG_supports_ctx_str(const char *alg_name) {
	OQS_SIG *sig = OQS_SIG_new(alg_name);
	bool supported = sig != NULL && sig->sig_with_ctx_support;
	OQS_SIG_free(sig);
	return supported;
}
