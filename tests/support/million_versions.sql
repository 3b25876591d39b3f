-- A million versions of forty thousand models in ten projects, with needs such as models have: a third need no
-- accelerator, the others one to eight devices of 4 to 80 GiB. All admitted. Nothing is random: every run is the same.
insert into projects (id, name, policy, policy_hash)
    overriding system value
    select n, 'p' || n, '{"preset": "open"}', 'policy' from generate_series(1, 10) n;
insert into repositories (id, project_id, name, kind)
    overriding system value
    select n, n % 10 + 1, 'p' || (n % 10 + 1) || '/model-' || n, 'model' from generate_series(1, 40000) n;
insert into versions (id, repository_id, version, digest, number, sort_key, prerelease, state, declared, pushed_by,
                      needs_recorded)
    overriding system value
    select n, n % 40000 + 1, '1.' || n / 40000 || '.0', 'sha256:' || md5(n::text), n / 40000 + 1,
           lpad((n / 40000)::text, 4, '0'), false, 'received', '{}', 'nobody', true
    from generate_series(0, 999999) n;
insert into version_needs (version_id, repository_id, architecture, cpu, cpu_features, memory, disk, gpu_count, gpu_memory, gpu_vendor,
                           gpu_models, gpu_capability, gpu_runtime, gpu_runtime_version)
    select n, n % 40000 + 1, case when n % 50 = 0 then 'arm64' else 'amd64' end, 1 + hashint4(n) & 15,
           case when n % 5 = 0 then '{avx2}'::text[] else '{}' end,
           (1::bigint << 29) * (1 + (hashint4(n + 1) & 255)), (1::bigint << 30) * (1 + (hashint4(n + 2) & 255)),
           gpus, case when gpus = 0 then 0 else (4::bigint << 30) * (1 + (hashint4(n + 4) & 2147483647) % 20) end,
           case when gpus > 0 and n % 3 = 0 then 'nvidia' end, '{}',
           case when gpus > 0 and n % 3 = 0 then '{8}'::int[] else '{}' end,
           case when gpus > 0 and n % 3 = 0 then 'cuda' end, case when gpus > 0 and n % 3 = 0 then '{12}'::int[] else '{}' end
    from (select n, (array[0, 0, 1, 1, 2, 8])[1 + (hashint4(n + 3) & 2147483647) % 6] as gpus
          from generate_series(0, 999999) n) as each;
insert into verdicts (repository_id, root, admitted, valid_until, reasons, policy_hash, trust_hash, evidence_hash)
    select repository_id, digest, true, 'infinity', '[]', 'policy', '', '' from versions;
analyze;
