// Written by edgeq for this bundle.
import CoreML
import Foundation

/// Core ML's side: the compiled package, and arrays in and out.
@available(iOS 18.0, macOS 15.0, *)
enum EdgeqCoreML {
    /// Where the bundle was made to run.
    static let computeUnits: MLComputeUnits = @UNITS@
    private static let package = "@MODEL@"

    /// One function of the model, or its only one.
    static func load(function: String? = nil) async throws -> MLModel {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        if let function { configuration.functionName = function }
        return try await MLModel.load(contentsOf: compiled(), configuration: configuration)
    }

    /// The compiled model: from the app where it was compiled ahead of time, else compiled once on this device.
    private static func compiled() async throws -> URL {
        let files = FileManager.default
        let source = try EdgeqBundle.directory().appending(path: package)
        let ahead = source.deletingPathExtension().appendingPathExtension("mlmodelc")
        if files.fileExists(atPath: ahead.path) { return ahead }
        let support = try files.url(
            for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let folder = support.appending(path: "edgeq/\(EdgeqBundle.name)")
        let target = folder.appending(path: "\(EdgeqBundle.version).mlmodelc")
        if files.fileExists(atPath: target.path) { return target }
        let temporary = try await MLModel.compileModel(at: source)
        // What older bundles left behind goes; a rename makes the new one appear complete or not at all.
        try? files.removeItem(at: folder)
        try files.createDirectory(at: folder, withIntermediateDirectories: true)
        try files.moveItem(at: temporary, to: target)
        return target
    }

    /// `[1, n]`, as the models take ids and masks.
    static func row(_ values: [Int]) -> MLShapedArray<Int32> {
        MLShapedArray<Int32>(scalars: values.map { Int32($0) }, shape: [1, values.count])
    }

    /// `[1]`, as they take positions.
    static func scalar(_ value: Int) -> MLShapedArray<Int32> {
        MLShapedArray<Int32>(scalars: [Int32(value)], shape: [1])
    }

    static func features(_ inputs: [String: MLShapedArray<Int32>]) throws -> MLDictionaryFeatureProvider {
        try MLDictionaryFeatureProvider(dictionary: inputs.mapValues { MLFeatureValue(shapedArray: $0) })
    }

    /// An output's numbers in a row, whichever precision the model has them in.
    static func floats(_ output: any MLFeatureProvider, _ name: String) throws -> [Float] {
        guard let array = output.featureValue(for: name)?.multiArrayValue else {
            throw EdgeqError.output("the model has no output \(name)")
        }
        return MLShapedArray<Float>(converting: array).scalars
    }

    /// How long a row of `count` tokens must be made for the model's input.
    static func length(of model: MLModel, input: String, count: Int) throws -> Int {
        guard let constraint = model.modelDescription.inputDescriptionsByName[input]?.multiArrayConstraint else {
            throw EdgeqError.output("the model has no input \(input)")
        }
        let length: Int
        switch constraint.shapeConstraint.type {
        case .enumerated:
            let lengths = constraint.shapeConstraint.enumeratedShapes.map { $0[1].intValue }
            length = lengths.filter { $0 >= count }.min() ?? 0
        case .range:
            let range = constraint.shapeConstraint.sizeRangeForDimension[1].rangeValue
            length = max(count, range.location)
        default:
            length = constraint.shape[1].intValue
        }
        guard length >= count else { throw EdgeqError.length("\(count) tokens are more than the model takes") }
        return length
    }
}
