//! What a BConv-Cell moves, counted from its launches: the pre-activations of the gates never reach memory.
//! What is left out of the count lies in workspaces whose size has nothing to do with the gates'.

use std::collections::HashMap;
use std::sync::Arc;

use half::bf16;
use ptl::engine::device::{Device, Emulator, Gpu, Launch};
use ptl::engine::graph::Mode;
use ptl::engine::precision::Precision;
use ptl::engine::session::{CaseRun, Pass, Placed};
use ptl::engine::shape::Shape;

use crate::cells::{Cell, cells};

/// A cell so small that the emulator runs it at once.
fn small(cell: &Cell) -> Cell {
    let Shape { n, h, w, c } = cell.input;
    let input = Shape::new(n, h / 8, w / 8, if c > 3 { c / 8 } else { c });
    Cell { input, channels: cell.channels / 8, input_gradient: true, ..*cell }
}

/// A tensor that a launch was given.
#[derive(Clone, Debug, PartialEq)]
struct Argument {
    tensor: String,
    bytes: usize,
    written: bool,
}

/// A cell on an emulated GPU, with names for what its launches are given.
struct Watched {
    run: CaseRun,
    gpu: Gpu,
    emulator: Arc<Emulator>,
}

impl Watched {
    fn new(cell: &Cell, mode: Mode, precision: Precision) -> Watched {
        let emulator = Arc::new(Emulator::default());
        let gpu = Gpu::new(emulator.clone(), precision);
        let mut run = CaseRun::on(&Device::Gpu(gpu.clone()), &cell.case(), mode, 5);
        // The first run brings parameters and states to the device.
        run.forward().unwrap();
        emulator.take_launches();
        Watched { run, gpu, emulator }
    }

    fn forward(&mut self) -> Vec<(&'static str, Vec<Argument>)> {
        self.run.forward().unwrap();
        self.launches(Pass::Forward)
    }

    fn backward(&mut self) -> Vec<(&'static str, Vec<Argument>)> {
        self.run.backward().unwrap();
        self.launches(Pass::Backward)
    }

    /// What was launched since the last call, with every address named.
    fn launches(&mut self, pass: Pass) -> Vec<(&'static str, Vec<Argument>)> {
        let launches = self.emulator.take_launches();
        let arena = self.run.session.blocks(0, pass);
        let values = self.run.store.values.on_device(&self.gpu).unwrap().address();
        let grads = (pass == Pass::Backward).then(|| self.run.store.grads.on_device(&self.gpu).unwrap().address());
        let named: HashMap<u64, &str> =
            [(values, "weight")].into_iter().chain(grads.map(|a| (a, "gradient of weight"))).collect();
        launches.iter().map(|launch| (launch.kernel.name, self.arguments(launch, &arena, &named))).collect()
    }

    fn arguments(&self, launch: &Launch, arena: &[Placed], named: &HashMap<u64, &str>) -> Vec<Argument> {
        let addresses = launch.arguments.iter().zip(launch.kernel.writes);
        let given = addresses
            .filter_map(|(argument, &written)| Some((argument[0], written?)))
            .filter(|(address, _)| *address != 0);
        let named = given.map(|(address, written)| {
            let holds = |block: &&Placed| (block.address..block.address + block.bytes as u64).contains(&address);
            if let Some(block) = arena.iter().find(holds) {
                return Argument { tensor: block.name.clone(), bytes: block.bytes, written };
            }
            let (start, bytes) = self.emulator.allocation(address).expect("an address of the device");
            // What is neither in the arena nor a parameter is one of the two latent states.
            Argument { tensor: named.get(&start).unwrap_or(&"state").to_string(), bytes, written }
        });
        named.collect()
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

/// The tensors of a launch by name, a star behind those that are written.
fn names(arguments: &[Argument]) -> Vec<String> {
    arguments.iter().map(|a| format!("{}{}", a.tensor, if a.written { "*" } else { "" })).collect()
}

fn moved(launches: &[(&str, Vec<Argument>)]) -> usize {
    let of_launch = |(kernel, arguments): &(&str, Vec<Argument>)| {
        let times = |a: &Argument| if kernel.starts_with("bconv_gate_gradients") && a.written { 2 } else { 1 };
        arguments.iter().filter(|a| a.tensor != "workspace").map(|a| times(a) * a.bytes).sum::<usize>()
    };
    launches.iter().map(of_launch).sum()
}

/// In the names of kernels for few input channels, which move the same.
const DENSE: &str = "_dense";

#[test]
fn evaluation_moves_no_gates() {
    for precision in PRECISIONS {
        for (i, cell) in cells(2).iter().map(small).enumerate() {
            let launches = Watched::new(&cell, Mode::Eval, precision).forward();
            // On tensor cores the weights are packed into the workspace first.
            let packs = precision != Precision::F32;
            assert_eq!(launches.len(), 1 + usize::from(packs), "cell {}: {launches:#?}", i + 1);
            if packs {
                assert_eq!(names(&launches[0].1), ["weight", "workspace*"]);
            }
            let weight = if packs { "workspace" } else { "weight" };
            let (kernel, arguments) = launches.last().unwrap();
            assert_eq!(kernel.replace(DENSE, ""), format!("bconv_forward_{precision}"));
            assert_eq!(names(arguments), ["input 0", weight, "state", "state*", "output*"], "cell {}", i + 1);
            assert_eq!(moved(&launches), cell.fused(precision).evaluation, "cell {} in {precision}", i + 1);

            // Nothing that grows with the pixels hides in the workspace.
            let Cell { input, .. } = cell;
            let larger = Cell { input: Shape { n: 2 * input.n, ..input }, ..cell };
            let of_larger = Watched::new(&larger, Mode::Eval, precision).forward();
            let workspace = |launches: &[(&str, Vec<Argument>)]| {
                let arguments = launches.iter().flat_map(|(_, arguments)| arguments);
                arguments.filter(|a| a.tensor == "workspace").map(|a| a.bytes).collect::<Vec<_>>()
            };
            assert_eq!(workspace(&launches), workspace(&of_larger), "cell {} in {precision}", i + 1);
        }
    }
}

#[test]
fn training_moves_the_activated_gates_five_times() {
    for precision in PRECISIONS {
        for (i, cell) in cells(2).iter().map(small).enumerate() {
            let mut watched = Watched::new(&cell, Mode::Train, precision);
            let forward = watched.forward();
            let saved = watched.run.session.blocks(0, Pass::Forward).into_iter().find(|block| block.name == "saved");
            let saved = saved.expect("training keeps the gates");
            assert_eq!(saved.bytes, cell.bytes(precision).gates, "cell {}", i + 1);
            assert_activated(&watched.gpu, &saved, cell.channels);
            let launches = [forward, watched.backward()].concat();

            let of_gates = launches.iter().flat_map(|(kernel, arguments)| {
                arguments.iter().filter(|a| a.tensor == "saved").map(move |a| (kernel.replace(DENSE, ""), a.written))
            });
            let kernel = |name: &str| format!("{name}_{precision}");
            // In tf32 the elementwise kernel is that of f32: what is stored is f32.
            let elementwise = if precision == Precision::Tf32 { Precision::F32 } else { precision };
            let expected = [
                (kernel("bconv_forward"), true),
                (format!("bconv_gate_gradients_{elementwise}"), true),
                (kernel("conv2d_backward_data"), false),
                (kernel("conv2d_backward_weight"), false),
            ];
            assert_eq!(of_gates.collect::<Vec<_>>(), expected, "cell {}", i + 1);
            let known = ["input 0", "weight", "state", "output", "saved", "workspace", "gradient of output"];
            let known = known.into_iter().chain(["gradient of input 0", "gradient of weight"]).collect::<Vec<_>>();
            for (kernel, arguments) in &launches {
                assert!(arguments.iter().all(|a| known.contains(&a.tensor.as_str())), "{kernel}: {arguments:?}");
            }
            assert_eq!(moved(&launches), cell.fused(precision).training, "cell {} in {precision}", i + 1);
        }
    }
}

/// `[pixel, i f o g, channel]`: three sigmoids and a tanh, which pre-activations (sums of many products here) are not.
fn assert_activated(gpu: &Gpu, saved: &Placed, channels: usize) {
    let mut bytes = vec![0u8; saved.bytes];
    gpu.download(&mut [(&mut bytes, saved.address)]).unwrap();
    let values: Vec<f32> = match gpu.precision() {
        Precision::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect(),
    };
    for pixel in values.chunks_exact(4 * channels) {
        let (sigmoids, tanh) = pixel.split_at(3 * channels);
        assert!(sigmoids.iter().all(|v| (0.0..=1.0).contains(v)) && tanh.iter().all(|v| v.abs() <= 1.0), "{pixel:?}");
    }
    assert!(values.iter().any(|v| *v < 0.0), "no tanh among the gates");
}

/// The table of `docs/kernels.md`: batches of 16 in bf16, in MB.
#[test]
fn the_documented_bytes_are_those_of_the_shapes() {
    let mut lines = vec![
        "| cell | input | output | gates | evaluation, fused | unfused | training, fused | unfused |".to_string(),
        "|---|---|---|---|---|---|---|---|".to_string(),
    ];
    let precision = Precision::Bf16;
    let row = |cells: &[Cell], [name, input, output]: [String; 3]| {
        let sum =
            |bytes: &dyn Fn(&Cell) -> usize| format!("{:.1}", cells.iter().map(bytes).sum::<usize>() as f64 / 1e6);
        let numbers = [
            sum(&|cell| cell.bytes(precision).gates),
            sum(&|cell| cell.fused(precision).evaluation),
            sum(&|cell| cell.unfused(precision).evaluation),
            sum(&|cell| cell.fused(precision).training),
            sum(&|cell| cell.unfused(precision).training),
        ];
        format!("| {name} | {input} | {output} | {} |", numbers.join(" | "))
    };
    let all = cells(16);
    for (i, cell) in all.iter().enumerate() {
        let size = |Shape { h, w, c, .. }: Shape| format!("{h}x{w}x{c}");
        lines.push(row(&[*cell], [(i + 1).to_string(), size(cell.input), size(cell.output())]));
    }
    lines.push(row(&all, ["all".into(), String::new(), String::new()]));
    let table = lines.join("\n");
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kernels.md")).unwrap();
    assert!(document.contains(&table), "docs/kernels.md lacks this table:\n{table}");
}
